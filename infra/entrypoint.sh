# What a container is started with is restyle's, unless it is another program in the image:
# Prefect's workers start `prefect flow-run execute`.
case "$1" in
    prefect | python | ray | sh) exec "$@" ;;
    *) exec restyle "$@" ;;
esac
