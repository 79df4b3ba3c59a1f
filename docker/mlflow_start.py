"""Make the bucket of the artifacts if there is none, and become MLflow's server.

[동작] 저장소와 그 열쇠는 모두 환경 변수에서 온다 (docker/compose.yaml). 버킷은 서버가 처음 뜰 때만 만든다.
"""

import os
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

# The store may still be on its way.
s3 = boto3.client("s3", config=Config(retries={"max_attempts": 10, "mode": "standard"}))
bucket = urlsplit(os.environ["MLFLOW_ARTIFACTS_DESTINATION"]).netloc
try:
    s3.create_bucket(Bucket=bucket)
except ClientError as error:
    if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
        raise
os.execvp("mlflow", ["mlflow", "server", "--host", os.environ.get("MLFLOW_HOST", "0.0.0.0"), "--port", "5000"])
