# MLflow's server with the drivers of PostgreSQL and S3: docker/compose.yaml builds it.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

COPY constraints.txt /tmp/
RUN pip install -c /tmp/constraints.txt mlflow boto3 "psycopg[binary]==3.3.9" && \
    rm /tmp/constraints.txt && \
    useradd --create-home --uid 10001 mlflow

# Makes the bucket of MLFLOW_ARTIFACTS_DESTINATION where there is none.
COPY docker/mlflow_start.py /srv/start.py
USER 10001
EXPOSE 5000
CMD ["python", "/srv/start.py"]
