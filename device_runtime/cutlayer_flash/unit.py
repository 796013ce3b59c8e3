"""The systemd unit of a device: what it may do, and what happens when it dies or hangs."""

from cutlayer_core.wire.transports.tls import AUTHORITY, CERTIFICATE, KEY

__all__ = ["unit_text"]

_HOME = "/opt/cutlayer/current"

_UNIT = """\
# The device's part of a trial of cutlayer. Its releases are in /opt/cutlayer, what it needs to go on after a crash in
# /var/lib/cutlayer; `journalctl -u cutlayer` shows what it says.
[Unit]
Description=cutlayer, the device's part of split learning
After=network-online.target time-sync.target
Wants=network-online.target
# Never given up: a disk may have room again, a meter answer, and nobody is there to start it.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={home}/bin/cutlayer-device service {home}/config.toml --state /var/lib/cutlayer
Restart=always
RestartSec=10
# Reading many images from a card takes its time.
TimeoutStartSec=900
# It ends within 2 s of SIGTERM, with all that it needs on the disk, and says 130.
SuccessExitStatus=130
TimeoutStopSec=5
# The training loop itself says that it is alive: once a step, and also while it waits for a network that is gone.
WatchdogSec=300
MemoryHigh=70%
MemoryMax=85%
# An update is tried beside the training; if that takes too much memory, the update is at fault.
OOMPolicy=continue

DynamicUser=yes
# video may ask a Raspberry Pi's firmware for its power, i2c read sensors; who installs this leaves out what the board does not have.
SupplementaryGroups=video i2c
StateDirectory=cutlayer
StateDirectoryMode=0700
CacheDirectory=cutlayer
Environment=PYTHONPYCACHEPREFIX=/var/cache/cutlayer/pyc
UMask=0077
{credentials}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
DevicePolicy=closed
DeviceAllow=/dev/vcio rw
DeviceAllow=/dev/vcio_gencmd rw
DeviceAllow=char-i2c rw
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service perf_event_open
SystemCallFilter=~@privileged
# A refused call is an error of the program, not its death.
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=

[Install]
WantedBy=multi-user.target
"""


def unit_text(*, tls: bool) -> str:
    """The text of ``cutlayer.service``.

    With ``tls``, systemd hands the certificates to the service, which has a user of its own, from files that only root
    can read.
    """
    names = (AUTHORITY, CERTIFICATE, KEY) if tls else ()
    credentials = "".join(f"LoadCredential={name}:{_HOME}/tls/{name}\n" for name in names)
    return _UNIT.format(home=_HOME, credentials=credentials)
