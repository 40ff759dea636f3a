#!/bin/sh
# systemd as process 1 of its own PID, mount and cgroup namespaces, with Podman's generator and storage of a test.
# systemd_host.sh FOLDER: FOLDER/podman is the test's podman, FOLDER/containers becomes /etc/containers.
set -e
F=$1
mount --make-rprivate /
umount -R -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system "$F/containers/systemd" "$F/units" "$F/generators"
touch "$F/podman-program"
mount --bind /usr/bin/podman "$F/podman-program"
mount --bind "$F/podman" /usr/bin/podman
mount --bind "$F/containers" /etc/containers
ln -sf /usr/lib/systemd/system-generators/podman-system-generator "$F/generators/"
for each in sysinit basic network-online shutdown umount multi-user default; do
  printf '[Unit]\nDefaultDependencies=no\n' > "$F/units/$each.target"
done
cat > "$F/units/podman.service" <<END
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/usr/bin/podman system service --time 0 unix://$F/p.sock
KillMode=process
Delegate=yes
END
mkdir -p "$F/units/default.target.wants"
ln -sf ../podman.service "$F/units/default.target.wants/"
export container=unshare
export SYSTEMD_UNIT_PATH="$F/units:/run/systemd/generator" SYSTEMD_GENERATOR_PATH="$F/generators"
exec /lib/systemd/systemd --system --unit=default.target --log-target=console --log-level=info --show-status=no
