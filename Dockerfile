# Two images from one build: `tollgate` (the default) and `backend`, the small inference server of the demo.
#   docker build -t tollgate .
#   docker build -t tollgate-backend --target backend .

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake g++ make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin tollgate --example inference_backend \
 && mkdir -p /out/bin /out/run/tollgate /out/var/lib/tollgate \
 && cp target/release/tollgate target/release/examples/inference_backend /out/bin/ \
 && chmod 0750 /out/run/tollgate && chmod 0700 /out/var/lib/tollgate

# glibc and nothing else: no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot AS backend
COPY --from=build /out/bin/inference_backend /usr/local/bin/
USER 65532:65532
EXPOSE 8000
ENTRYPOINT ["/usr/local/bin/inference_backend"]

FROM gcr.io/distroless/cc-debian12:nonroot AS tollgate
COPY --from=build /out/bin/tollgate /usr/local/bin/
# Group 101 is `envoy` in Envoy's image: it may open the check socket, and nothing else of ours.
COPY --from=build --chown=65532:101 /out/run/tollgate /run/tollgate
COPY --from=build --chown=65532:101 /out/var/lib/tollgate /var/lib/tollgate
USER 65532:101
VOLUME ["/var/lib/tollgate", "/run/tollgate"]
ENTRYPOINT ["/usr/local/bin/tollgate"]
CMD ["serve", "--config", "/etc/tollgate/tollgate.yaml"]
