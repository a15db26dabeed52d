# The image of the sidecar, of the container that sets the rules of capture, and of the CA: one image, no shell in it.
#
#   docker build -t oarlock:0.1.0 --build-arg BASE_IMAGE=node:26-bookworm-slim@sha256:… .
#
# The base builds; only programs and their libraries are taken from it. Give it by digest, as above, to get the same
# image twice: `docker buildx imagetools inspect node:26-bookworm-slim` tells the digest of the day. Any Debian with npm
# will do. What runs is the Node of the lock file, not that of the base.
ARG BASE_IMAGE=node:26-bookworm-slim

# ---- the bundle
FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci --ignore-scripts --no-audit --no-fund
COPY . .
RUN node_modules/.bin/node bin/build.ts /opt/oarlock && cp -L node_modules/.bin/node /opt/node
# The cache of compiled code is the user's who fills it.
RUN install -d -o 1337 -g 1337 /opt/oarlock/cache
USER 1337:1337
RUN node_modules/.bin/node bin/warm.ts /opt/oarlock

# ---- programs, with the libraries they load
FROM ${BASE_IMAGE} AS programs
RUN apt-get update && apt-get install -y --no-install-recommends binutils iproute2 iptables libatomic1 nftables
COPY --from=build /opt/node /usr/local/bin/node
RUN strip /usr/local/bin/node
COPY deploy/image/copy-programs.sh /
RUN sh /copy-programs.sh /image /usr/local/bin/node /usr/sbin/nft /usr/sbin/ip /usr/sbin/iptables /usr/sbin/ip6tables \
    /usr/sbin/iptables-save /usr/sbin/ip6tables-save /usr/sbin/iptables-restore /usr/sbin/ip6tables-restore \
    /usr/sbin/iptables-legacy-save /usr/sbin/ip6tables-legacy-save \
    /usr/sbin/iptables-legacy-restore /usr/sbin/ip6tables-legacy-restore \
    /usr/sbin/iptables-nft-save /usr/sbin/ip6tables-nft-save \
    /usr/sbin/iptables-nft-restore /usr/sbin/ip6tables-nft-restore
# Folders for volumes: a new one takes their owner. And the account, for who asks its name.
RUN install -d -m 1777 /image/tmp && install -d /image/run /image/proc /image/sys /image/dev \
    && install -d -o 1337 -g 1337 -m 0700 /image/var/lib/oarlock /image/var/lib/oarlock/ca /image/var/lib/oarlock/token \
    && echo 'oarlock:x:1337:1337:::' > /image/etc/passwd && echo 'oarlock:x:1337:' > /image/etc/group \
    && ln -s /opt/oarlock/dist/main.js /image/usr/local/bin/oarlock

# ---- what runs
FROM scratch
LABEL org.opencontainers.image.title="oarlock" \
      org.opencontainers.image.description="A sidecar proxy: mutual TLS with SPIFFE identities, steered by Istio resources" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
COPY --from=programs /image/ /
COPY --from=build /opt/oarlock /opt/oarlock
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin
# One heap for all threads: less memory, and the data path has one thread.
ENV MALLOC_ARENA_MAX=1
USER 1337:1337
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s \
    CMD ["/usr/local/bin/oarlock", "probe", "http://127.0.0.1:15021/healthz/ready"]
ENTRYPOINT ["/usr/local/bin/node", "/opt/oarlock/dist/main.js"]
CMD ["run"]
