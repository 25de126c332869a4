# semiseg with its locked dependencies. Build: docker build -t semiseg .
# Use: docker run --rm --gpus all -v "$PWD:/data" semiseg train --data flowers --out runs/flowers
FROM python:3.11-slim

WORKDIR /opt/semiseg
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY src ./src
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

RUN useradd --create-home user
USER user
WORKDIR /data
ENTRYPOINT ["semiseg"]
CMD ["--help"]
