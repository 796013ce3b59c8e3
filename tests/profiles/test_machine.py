"""What kernels and firmware say, as captured."""

import os

import pytest

from cutlayer_core.record.usage import Wifi
from cutlayer_profiles.machine import (
    parse_busy_s,
    parse_iw_link,
    parse_iw_station,
    parse_net_dev,
    parse_pss_bytes,
    parse_residency_s,
    parse_throttled,
    read_machine,
    read_pss_bytes,
    wifi_since,
)
from cutlayer_profiles.meters import Root
from cutlayer_profiles.perf import _open
from profiles.boards import board

LINK = """\
Connected to 9c:3d:cf:11:22:33 (on wlp3s0)
	SSID: Acasa_5G
	freq: 5220
	RX: 88123456 bytes (61234 packets)
	TX: 12345678 bytes (23456 packets)
	signal: -47 dBm
	rx bitrate: 866.7 MBit/s VHT-MCS 9 80MHz short GI VHT-NSS 2
	tx bitrate: 780.0 MBit/s VHT-MCS 8 80MHz short GI VHT-NSS 2
"""
NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 545708744166 27600914    0    0    0     0          0         0 545708744166 27600914    0    0    0     0       0          0
 wlan0: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0
  eth0:30 1 0 0 0 0 0 0 40 1 0 0 0 0 0 0
"""


def test_busy_is_everything_but_idle_and_waiting_for_disks():
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert parse_busy_s("cpu  100 20 30 9999 888 4 5 6 0 0\ncpu0 1\n") == pytest.approx(165 * tick)
    with pytest.raises(ValueError, match="no line 'cpu'"):
        parse_busy_s("intr 1")


def test_bytes_by_interface():
    assert parse_net_dev(NET_DEV)["wlan0"] == (2000, 1000, 20, 10)
    assert parse_net_dev(NET_DEV)["eth0"] == (40, 30, 1, 1)


def test_memory_with_the_share_of_what_is_shared():
    text = "5581-7ffc ---p 00000000 00:00 0    [rollup]\nRss:   11084 kB\nPss:    4321 kB\nPss_Dirty: 99 kB\n"
    assert parse_pss_bytes(text) == 4321 * 1024
    with pytest.raises(ValueError, match="no line 'Pss'"):
        parse_pss_bytes("Rss: 1 kB")
    assert 0 < read_pss_bytes() <= read_machine(Root()).rss_peak_bytes


def test_time_by_clock():
    assert parse_residency_s("600000 100\n1500000 250\n") == {600.0: 1.0, 1500.0: 2.5}


@pytest.mark.parametrize(
    ("text", "now", "since"),
    [
        ("throttled=0x0\n", set(), set()),
        ("throttled=0x50005", {"under-voltage", "throttled"}, {"under-voltage", "throttled"}),
        ("throttled=0x80000", set(), {"soft temperature limit"}),
    ],
)
def test_what_holds_a_raspberry_pi_back(text, now, since):
    assert parse_throttled(text) == (now, since)


def test_what_is_no_answer_is_no_zero():
    with pytest.raises(ValueError, match="is no answer to get_throttled"):
        parse_throttled('error=1 error_msg="Command not registered"')


def test_a_link_is_told_without_its_name():
    link = parse_iw_link(LINK)
    assert (link.signal_dbm, link.sent_mbit_s, link.received_mbit_s) == (-47, 780, 866.7)
    assert len(link.network) == 12
    assert "Acasa" not in repr(link)
    assert "9c:3d" not in repr(link)
    assert parse_iw_link(LINK.replace("Acasa", "Other")).network != link.network
    assert parse_iw_link(LINK, "secret").network != link.network
    assert parse_iw_link("Not connected.\n") == Wifi()
    assert parse_iw_link(LINK.replace("\trx bitrate", "\told")).received_mbit_s is None


def test_retries_are_counted_between_reports():
    assert parse_iw_station("\ttx retries:     976\n\tsignal:  -60 [-60, -60] dBm\n") == 976
    assert parse_iw_station("\tsignal:  -60\n") is None
    assert wifi_since(Wifi(retries=900), Wifi(retries=976)).retries == 76
    assert wifi_since(Wifi(retries=900), Wifi(retries=3)).retries == 3, "the interface was set up anew"
    assert wifi_since(None, Wifi(retries=3)).retries == 3
    assert wifi_since(Wifi(), None) is None


def test_a_board_is_read_whole_and_a_bare_one_says_nothing(tmp_path):
    full = board(
        tmp_path / "full",
        {
            "proc/stat": "cpu  100 0 0 0 0 0 0 0\n",
            "proc/net/dev": NET_DEV,
            "sys/class/net/wlan0/wireless/link": "",
            "sys/class/net/wlan0/device/uevent": "",
            "commands/iw_dev_wlan0_link": LINK,
            "commands/iw_dev_wlan0_station_dump": "\ttx retries: 5\n",
            "commands/iw_dev_wlan0_get_power_save": "Power save: on\n",
            "commands/vcgencmd_get_throttled": "throttled=0x50000\n",
            "sys/class/thermal/thermal_zone0/temp": "45123",
            "sys/class/thermal/thermal_zone1/temp": "-256000",
            "sys/devices/system/cpu/cpu0/cpufreq/stats/time_in_state": "600000 100\n",
            "sys/devices/system/cpu/cpu1/cpufreq/stats/time_in_state": "600000 50\n",
        },
    )
    machine = read_machine(full)
    assert machine.traffic == (2000, 1000, 20, 10), "of hardware, not of tunnels and loops"
    assert machine.temperature_c == 45.123
    assert machine.residency_s == {600.0: 1.5}
    assert (machine.throttled, machine.throttled_ever) == (set(), {"under-voltage", "throttled"})
    assert 1e7 < machine.rss_peak_bytes < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert (machine.wifi.retries, machine.wifi.power_save) == (5, True)
    bare = read_machine(Root(tmp_path / "nothing"))
    assert (bare.busy_s, bare.traffic, bare.temperature_c, bare.wifi) == (None, None, None, None)


def test_the_kernel_understands_how_counters_are_asked_for():
    software, task_clock = 1, 1
    try:
        file = _open(task_clock, software)
    except OSError as error:
        pytest.skip(f"no counters here: {error}")
    sum(range(10**6))
    assert int.from_bytes(os.read(file, 8), "little") > 1e5
    os.close(file)
