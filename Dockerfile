# The commands of ddlm, on CPUs unless JAX says otherwise:
#   docker build --tag ddlm .
#   docker build --tag ddlm --build-arg JAX="jax[cuda12]" .
FROM python:3.11-slim

ARG JAX=jax

WORKDIR /source
COPY requirements.lock ./
# The tested versions, of what is needed: the lock has the libraries of tests and pages too.
RUN sed -e '/--hash/d' -e 's/ *\\$//' requirements.lock > constraints.txt
COPY setup.py pyproject.toml README.md LICENSE ddlm.py ./
COPY diffusion diffusion
COPY models models
COPY samplers samplers
COPY configs configs
COPY experiments experiments
RUN pip install --no-cache-dir --constraint constraints.txt "$JAX" .

# Any user may write there: docker run --user gives one that the image does not know.
ENV DDLM_CACHE=/tmp/ddlm
RUN useradd --create-home ddlm
USER ddlm
WORKDIR /home/ddlm
ENTRYPOINT ["ddlm"]
CMD ["--help"]
