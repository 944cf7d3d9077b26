#!/bin/sh
# LocalStack runs this once it is ready: the buckets and the queue exist before /_localstack/init/ready says "completed".
set -eu
export AWS_ACCESS_KEY_ID="${AWS_ACCESS_KEY_ID:-test}" AWS_SECRET_ACCESS_KEY="${AWS_SECRET_ACCESS_KEY:-test}"
export AWS_DEFAULT_REGION="${AWS_DEFAULT_REGION:-us-east-1}"
exec "${PROVISION_PYTHON:-/opt/code/localstack/.venv/bin/python}" "${PROVISION_SCRIPT:-/opt/dropdex/provision.py}" \
  "${PROVISION_BUCKET:-documents}" "${PROVISION_QUEUE:-documents-events}" --index "${PROVISION_INDEX:-index}" \
  --endpoint "${PROVISION_ENDPOINT:-http://127.0.0.1:4566}"
