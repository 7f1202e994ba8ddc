"""What the README promises, and the test that keeps it."""

PROMISES = [
    (
        "every row is accounted for",
        "tests/pipeline/test_hostile.py",
        "test_a_job_of_hostile_images_ends_with_each_accounted_for",
    ),
    (
        "The same command again does what is left and nothing else",
        "tests/flows/test_stylize.py",
        "test_the_same_job_again_does_nothing_and_new_photos_only_are_done",
    ),
    (
        "after a crash",
        "tests/flows/test_stop.py",
        "test_nothing_is_lost_when_workers_and_runs_are_killed",
    ),
    (
        "after some have changed",
        "tests/pipeline/test_plan.py",
        "test_a_source_that_changed_is_done_again_in_its_shard",
    ),
    (
        "the next run brings it up to date without stylizing anything again",
        "tests/pipeline/test_carried.py",
        "test_labels_that_were_corrected_are_so_in_the_ledger_and_beside_the_images",
    ),
    (
        "said before anything is written",
        "tests/pipeline/test_run.py",
        "test_a_wrong_request_is_refused_before_anything_is_written",
    ),
    (
        "a bad image never stops a run",
        "tests/pipeline/test_shard.py",
        "test_a_bad_image_is_a_failed_row_and_the_others_are_done",
    ),
    (
        "what is new or has changed, every night",
        "tests/flows/test_schedule.py",
        "test_a_schedule_does_what_is_new",
    ),
    (
        "One on which the decoder hangs",
        "tests/pipeline/test_inhand.py",
        "test_an_image_that_hangs_costs_itself_only",
    ),
    (
        "or that crashes the process that decodes it",
        "tests/pipeline/test_inhand.py",
        "test_images_that_crash_the_decoder_cost_themselves_only",
    ),
    (
        "what the ledger says is done is done",
        "tests/pipeline/test_shard.py",
        "test_a_fault_midway_leaves_nothing_of_the_shard_in_the_ledger",
    ),
    (
        "after a power cut, too",
        "tests/pipeline/test_shard.py",
        "test_results_have_reached_the_disk_when_the_ledger_says_so",
    ),
    (
        "Other settings on the same `OUT` are refused",
        "tests/pipeline/test_output.py",
        "test_other_settings_are_refused_with_the_difference",
    ),
    (
        "a second one, on whatever machine, is told who does",
        "tests/pipeline/test_claim.py",
        "test_the_second_is_told_who_is_at_work",
    ),
    (
        "a run that was killed holds up the next for less than half a minute",
        "tests/pipeline/test_claim.py",
        "test_a_claim_from_elsewhere_that_is_not_renewed_is_taken_over",
    ),
    (
        "lists what is missing, damaged, doubled or extra",
        "tests/pipeline/test_verify.py",
        "test_what_is_missing_damaged_or_extra_is_found_and_mended",
    ),
    (
        "nothing about them is printed or stored",
        "tests/flows/test_secrets.py",
        "test_no_secret_is_kept_or_told",
    ),
    (
        "those that expire are looked for anew",
        "tests/pipeline/storage/test_storage.py",
        "test_credentials_that_expired_are_looked_for_again",
    ),
    (
        "What fails is asked for again, alone",
        "tests/pipeline/test_faults.py",
        "test_storage_that_misbehaves_costs_no_row",
    ),
    (
        "If a bucket does not answer at all",
        "tests/pipeline/storage/test_storage.py",
        "test_a_bucket_that_is_away_for_a_while_is_waited_for",
    ),
    (
        "No id leads out of `OUT`",
        "tests/pipeline/test_fuzz.py",
        "test_no_id_leads_out_of_the_folder_of_results",
    ),
    (
        "A manifest may name local files only if it is itself local",
        "tests/pipeline/manifest/test_rows.py",
        "test_a_local_path_in_a_manifest_from_elsewhere_is_refused",
    ),
    (
        "it is the address connected to that counts",
        "tests/pipeline/storage/test_web.py",
        "test_a_redirection_does_not_lead_there",
    ),
    (
        "Shards that are lost (a worker that was killed, a fault that passes) are tried again",
        "tests/pipeline/test_workers.py",
        "test_a_worker_killed_at_work_is_replaced_and_its_shard_done_again",
    ),
    (
        "a fault of the system (no space, no credentials, no device) stops the run",
        "tests/pipeline/test_full_disk.py",
        "test_a_full_disk_stops_the_run_which_carries_on_when_there_is_room",
    ),
    (
        "Ctrl-C, SIGTERM",
        "tests/flows/test_stop.py",
        "test_nothing_is_lost_when_workers_and_runs_are_killed",
    ),
    (
        "and *Cancel* drop what is in hand",
        "tests/flows/test_stop.py",
        "test_a_run_that_is_cancelled_stops_and_carries_on",
    ),
    (
        "99.9 % of a photo's pixels are within 2/255 of float32",
        "tests/pipeline/test_stylizer.py",
        "test_lower_precisions_look_the_same",
    ),
    (
        "pack's own styles stay bit for bit what they were",
        "tests/pipeline/training/test_loop.py",
        "test_styles_are_added_and_the_others_stay_bit_for_bit",
    ),
    (
        "A stopped training goes on from its last checkpoint as if it had not been stopped",
        "tests/flows/test_train.py",
        "test_a_training_that_is_killed_ends_as_if_it_had_not_been",
    ),
    (
        "*Suspend* finishes the shards in hand",
        "tests/flows/test_stop.py",
        "test_a_run_that_is_suspended_stops_until_it_is_resumed",
    ),
    (
        "a node that dies costs the shards in its hands",
        "tests/flows/test_ray.py",
        "test_a_node_that_dies_costs_only_its_shards_in_flight",
    ),
    (
        "each image with its labels beside it",
        "tests/pipeline/layouts/test_webdataset.py",
        "test_the_library_reads_image_row_and_label",
    ),
]
