"""Boards as files: what their drivers and commands show, as captured or as their documentation has it; and a meter of known power."""

import time
from pathlib import Path

from cutlayer_profiles.meters import Accuracy, Meter, Root

PMIC = """\
 3V7_WL_SW_A current(0)=0.00000000A
   3V3_SYS_A current(1)=0.06245952A
   1V8_SYS_A current(2)=0.16102850A
  DDR_VDD2_A current(3)=0.00780744A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.17566740A
    0V8_SW_A current(6)=0.32791250A
  VDD_CORE_A current(7)=10.87674000A
   3V3_DAC_A current(17)=0.00036630A
   3V3_ADC_A current(18)=0.00042735A
   0V8_AON_A current(16)=0.00579975A
      HDMI_A current(22)=0.01367520A
 3V7_WL_SW_V volt(8)=3.79999600V
   3V3_SYS_V volt(9)=3.30632200V
   1V8_SYS_V volt(10)=1.79828900V
  DDR_VDD2_V volt(11)=1.10292900V
  DDR_VDDQ_V volt(12)=0.60476130V
   1V1_SYS_V volt(13)=1.10439400V
    0V8_SW_V volt(14)=0.80256330V
  VDD_CORE_V volt(15)=0.89745940V
   3V3_DAC_V volt(20)=3.30494200V
   3V3_ADC_V volt(21)=3.30219400V
   0V8_AON_V volt(19)=0.79736190V
      HDMI_V volt(23)=5.07056000V
     EXT5V_V volt(24)=5.06788000V
      BATT_V volt(25)=3.01110800V
"""
"""Of a Raspberry Pi 5 under load: jfikar/RPi5-power."""

HWMON = "sys/class/hwmon/hwmon3"
INA219 = {
    f"{HWMON}/name": "ina219\n",
    f"{HWMON}/in0_input": "62\n",
    f"{HWMON}/in1_input": "5096\n",
    f"{HWMON}/curr1_input": "620\n",
    f"{HWMON}/power1_input": "3160000\n",
    f"{HWMON}/shunt_resistor": "100000\n",
}
"""Made up after the driver's documentation: a Pi 4 behind a breakout of 0.1 ohm."""

OLD_NANO = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
NANO = {
    f"{OLD_NANO}/rail_name_0": "POM_5V_IN\n",
    f"{OLD_NANO}/in_voltage0_input": "5024\n",
    f"{OLD_NANO}/in_current0_input": "352\n",
    f"{OLD_NANO}/in_power0_input": "1768\n",
    f"{OLD_NANO}/rail_name_1": "POM_5V_GPU\n",
    f"{OLD_NANO}/in_voltage1_input": "5024\n",
    f"{OLD_NANO}/in_current1_input": "8\n",
    f"{OLD_NANO}/in_power1_input": "40\n",
}
"""A Jetson Nano, L4T r32."""

ORIN_NANO = {
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "4920\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1160\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon1/in2_input": "4920\n",
    "sys/class/hwmon/hwmon1/curr2_input": "168\n",
    "sys/class/hwmon/hwmon1/in4_input": "5800\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon1/in7_input": "6640\n",
}
"""An Orin Nano, L4T r36."""

AGX_ORIN = {
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_GPU_SOC\n",
    "sys/class/hwmon/hwmon1/in1_input": "12000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "400\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_CV\n",
    "sys/class/hwmon/hwmon1/in2_input": "12000\n",
    "sys/class/hwmon/hwmon1/curr2_input": "250\n",
    "sys/class/hwmon/hwmon1/in3_label": "VIN_SYS_5V0\n",
    "sys/class/hwmon/hwmon1/in3_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr3_input": "1100\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon2/name": "ina3221\n",
    "sys/class/hwmon/hwmon2/in1_label": "NC\n",
    "sys/class/hwmon/hwmon2/in2_label": "VDDQ_VDD2_1V8AO\n",
    "sys/class/hwmon/hwmon2/in2_input": "5000\n",
    "sys/class/hwmon/hwmon2/curr2_input": "200\n",
    "sys/class/hwmon/hwmon2/in3_label": "NC\n",
}
"""Two chips, no rail for the whole."""

RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "262143000000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "5\n",
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "262143328850\n",
}


def board(folder: Path, files: dict[str, str]) -> Root:
    """A copy of a board with these files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Root(folder)


def pi5(folder: Path, text: str = PMIC) -> Root:
    """A Raspberry Pi 5 whose firmware answers this."""
    return board(folder, {"commands/vcgencmd_pmic_read_adc": text})


class Known(Meter):
    """So many watts at so many seconds; or joules."""

    def __init__(self, power, counts=False, period_s=0.02):
        accuracy = Accuracy(gain=0.01, step=0.1)
        super().__init__(Root(), "known", "measured", "dc_input", accuracy, period_s, counts=counts)
        self._power, self.reads = power, 0

    def read(self):
        self.reads += 1
        return self._power(time.monotonic())
