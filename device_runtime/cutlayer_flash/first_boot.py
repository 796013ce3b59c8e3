"""The files with which a card's system sets itself up on its first boot: name, Wi-Fi, login, and the release.

One script installs the release, however it is started: by cloud-init, or by systemd before anything else. Secrets that
the boot partition has to hold until then (it has no permissions) are removed from it afterwards.
"""

import hashlib
import shlex

import msgspec
import tomli_w
import yaml

from cutlayer_flash.archive import Archive
from cutlayer_flash.boot import Boot, FirstBoot
from cutlayer_flash.setup import Setup

__all__ = ["files_for", "write_first_boot"]

_MOUNTED = "/boot/firmware"
_FOLDER = "cutlayer"
_SCRIPT, _PACKED = f"{_FOLDER}/first-boot.sh", f"{_FOLDER}/release.tar.gz"
_RUN = f"systemd.run={_MOUNTED}/{_SCRIPT} systemd.run_success_action=reboot systemd.run_failure_action=reboot systemd.unit=kernel-command-line.target"
_I2C = "dtparam=i2c_arm=on"

# Runs as root, once. Its output goes to /var/log/cutlayer-first-boot.log.
_HEAD = """\
#!/bin/sh
# Sets this board up on its first boot, and takes itself and all secrets off the boot partition.
exec >>/var/log/cutlayer-first-boot.log 2>&1
set -u
boot=$(dirname "$(dirname "$(readlink -f "$0")")")
"""
_SETUP = """\
name={hostname}
user={user}
key={key}

echo "$name" >/etc/hostname
sed -i '/^127\\.0\\.1\\.1/d' /etc/hosts
printf '127.0.1.1\\t%s\\n' "$name" >>/etc/hosts

if ! id "$user" >/dev/null 2>&1; then
  if [ -x /usr/lib/userconf-pi/userconf ]; then
    /usr/lib/userconf-pi/userconf "$user" '!'
  else
    useradd --create-home --shell /bin/bash "$user"
  fi
fi
home=$(getent passwd "$user" | cut -d: -f6)
mkdir -p "$home/.ssh"
chmod 700 "$home/.ssh"
printf '%s\\n' "$key" >"$home/.ssh/authorized_keys"
chown -R "$user:$(id -gn "$user")" "$home/.ssh"
chmod 600 "$home/.ssh/authorized_keys"
# So that a later release can be sent without anybody at a keyboard; who logs in needs the key.
printf '%s ALL=(ALL) NOPASSWD:ALL\\n' "$user" >/etc/sudoers.d/010_cutlayer
chmod 440 /etc/sudoers.d/010_cutlayer
systemctl enable ssh
"""
_WIFI = """
mkdir -p /etc/NetworkManager/system-connections
umask 077
cat >/etc/NetworkManager/system-connections/cutlayer.nmconnection <<'END'
[connection]
id=cutlayer
type=wifi

[wifi]
mode=infrastructure
ssid={ssid}
hidden={hidden}

[wifi-security]
key-mgmt=wpa-psk
psk={psk}

[ipv4]
method=auto

[ipv6]
method=auto
END
umask 022
if command -v raspi-config >/dev/null; then
  raspi-config nonint do_wifi_country {country}
else
  iw reg set {country}
fi
rfkill unblock wifi
"""
_I2C_MODULE = """
printf 'i2c-dev\\n' >/etc/modules-load.d/cutlayer-i2c.conf
"""
_INSTALL = """
# On this partition until it is done, so that a power cut only has it begin anew.
rm -rf /var/tmp/cutlayer.*
work=$(mktemp -d /var/tmp/cutlayer.XXXXXX)
status=1
if echo '{sha256}  '"$boot/{packed}" | sha256sum -c --quiet && tar xzf "$boot/{packed}" -C "$work"; then
  {python} "$work/{folder}/install.py" --no-start
  status=$?
fi
rm -rf "$work"
sync
# Off this partition, which everybody can read.
{scrub}
rm -rf "$boot/{home}"
sync
{end}
"""


def files_for(kind: FirstBoot, setup: Setup, archive: Archive, cmdline: str, config: str) -> dict[str, str]:
    """The files on a boot partition that make the system set itself up and install the release.

    Args:
        kind: the kind of first-boot files that the system obeys.
        setup: what the board becomes.
        archive: the release that will be next to these files.
        cmdline: the present kernel command line.
        config: the present firmware configuration.
    """
    setup.check()
    files = {}
    if setup.i2c and _I2C not in config.splitlines():
        files["config.txt"] = config.rstrip("\n") + f"\n\n[all]\n{_I2C}\n"
    if kind == "cloud-init":
        files |= _cloud_init(setup, archive)
        scrub = _SCRUB_CLOUD if setup.wifi else ""
        files["cmdline.txt"] = _with(cmdline, f"ds=nocloud;i={_instance(setup, archive)}", ("ds=",))
        files[_SCRIPT] = (
            _HEAD
            + (_I2C_MODULE if setup.i2c else "")
            + _install(archive, scrub, "systemctl start --no-block cutlayer\nexit $status")
        )
        return files
    own = "" if kind == "rpi-preseed" else _setup_script(setup)
    if kind == "rpi-preseed":
        files["rpi-preseed.toml"] = _preseed(setup)
    files["cmdline.txt"] = _with(cmdline, _RUN, ("systemd.run", "systemd.unit=kernel-command-line"))
    # The system's own first boot may have changed that line meanwhile; our words are at its end, and are cut off there.
    restore = "sed -i 's| systemd\\.run=.*||' \"$boot/cmdline.txt\""
    files[_SCRIPT] = _HEAD + own + (_I2C_MODULE if setup.i2c else "") + _install(archive, restore, "exit $status")
    return files


def write_first_boot(boot: Boot, kind: FirstBoot, setup: Setup, archive: Archive) -> list[str]:
    """Write everything, and return the names; the command line is last, lest half be obeyed. Raises `CutlayerError`."""
    cmdline, config = ((boot.read(name) or b"").decode(errors="replace") for name in ("cmdline.txt", "config.txt"))
    files = files_for(kind, setup, archive, cmdline, config)
    boot.copy(archive.path, _PACKED)
    for name in sorted(files, key=lambda name: name == "cmdline.txt"):
        boot.write(name, files[name].encode())
    return [_PACKED, *files]


_SCRUB_CLOUD = "printf 'network:\\n  version: 2\\n' >\"$boot/network-config\"  # cloud-init has it, and reads it once"


def _setup_script(setup: Setup) -> str:
    text = _SETUP.format(hostname=setup.hostname, user=setup.user, key=shlex.quote(setup.ssh_key))
    if setup.wifi is None:
        return text
    ssid = "".join(f"{byte};" for byte in setup.wifi.ssid.encode())  # NetworkManager's notation for arbitrary bytes
    hidden = str(setup.wifi.hidden).lower()
    return text + _WIFI.format(ssid=ssid, hidden=hidden, psk=setup.wifi.psk, country=setup.wifi.country)


def _install(archive: Archive, scrub: str, end: str) -> str:
    python = f"/usr/bin/python{archive.release.python}"
    return _INSTALL.format(
        packed=_PACKED, scrub=scrub, sha256=archive.sha256, folder=archive.folder, python=python, home=_FOLDER, end=end
    )


def _cloud_init(setup: Setup, archive: Archive) -> dict[str, str]:
    """``user-data``, ``network-config`` and ``meta-data`` (cloud-init's NoCloud; ``rpi`` is Raspberry Pi OS's own)."""
    user_data = {
        "hostname": setup.hostname,
        "manage_etc_hosts": True,
        "user": {
            "name": setup.user,
            "shell": "/bin/bash",
            "lock_passwd": True,
            "ssh_authorized_keys": [setup.ssh_key],
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
        },
        "ssh_pwauth": False,
        "runcmd": [
            ["systemctl", "enable", "--now", "ssh"],
            ["rfkill", "unblock", "wifi"],
            ["sh", f"{_MOUNTED}/{_SCRIPT}"],
        ],
    }
    instance = _instance(setup, archive)
    meta_data = {"dsmode": "local", "instance-id": instance, "instance_id": instance}
    files = {"user-data": "#cloud-config\n" + _yaml(user_data), "meta-data": _yaml(meta_data)}
    if setup.wifi is not None:
        point = {"password": setup.wifi.psk, **({"hidden": True} if setup.wifi.hidden else {})}
        wlan0 = {
            "dhcp4": True,
            "optional": True,
            "regulatory-domain": setup.wifi.country,
            "access-points": {setup.wifi.ssid: point},
        }
        files["network-config"] = _yaml({"network": {"version": 2, "wifis": {"wlan0": wlan0}}})
    return files


def _preseed(setup: Setup) -> str:
    """``rpi-preseed.toml``, from which the system removes the secrets itself (raspberrypi/rpi-imager, its tests)."""
    values = {
        "config_version": "1.0",
        "system": {"hostname": setup.hostname},
        "user": {"name": setup.user, "passwordless_sudo": True},
        "ssh": {"enabled": True, "password_authentication": False, "authorized_keys": [setup.ssh_key]},
    }
    if setup.wifi is not None:
        wifi = setup.wifi
        values["wlan"] = {
            "ssid": wifi.ssid,
            "password": wifi.psk,
            "password_encrypted": True,
            "country": wifi.country,
            "hidden": wifi.hidden,
        }
    return tomli_w.dumps(values)


def _yaml(values: object) -> str:
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=False, default_flow_style=False, width=1000)
    return text


def _instance(setup: Setup, archive: Archive) -> str:
    """The instance id: if it differs, as after any correction, cloud-init takes the card for new and obeys it again."""
    text = msgspec.json.encode([archive.sha256, *setup])
    return f"cutlayer-{hashlib.sha256(text).hexdigest()[:16]}"


def _with(cmdline: str, words: str, prefix: tuple[str, ...]) -> str:
    """A kernel command line, on one line, with ``words`` in place of earlier words that begin with ``prefix``."""
    return f"{_without(cmdline, prefix)} {words}\n"


def _without(cmdline: str, prefix: tuple[str, ...]) -> str:
    return " ".join(word for word in cmdline.split() if not word.startswith(prefix))
