# Runs the demo:  docker build -t pyro_hmvcrl . && docker run --rm -v "$PWD/demo-run:/out" pyro_hmvcrl
# or any command: docker run --rm -v "$PWD:/out" pyro_hmvcrl pyro-hmvcrl fit logs --out run ...
FROM python:3.11-slim
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pyro_hmvcrl pyro_hmvcrl
RUN pip install --no-cache-dir --constraint constraints.txt .
WORKDIR /out
CMD ["pyro-hmvcrl", "demo", "--out", "."]
