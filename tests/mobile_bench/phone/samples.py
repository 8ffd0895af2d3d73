"""Outputs of the tools and of Android in their published forms, with invented figures.

Beside each stands where its form was published: a repository with the number of an issue, or a
source file. The lines are of the same shape, not copies.
"""

# microsoft/onnxruntime#2798 and #4331 (2020): no blank behind the colon.
PERF_TEST_2020 = """Session creation time cost:1.5 s
Total inference requests:4
Average inference time cost:12.5 ms
Total inference run time:0.051 s
"""
# ARM-software/ComputeLibrary#850 = microsoft/onnxruntime#4647 (version 1.3, on a phone).
PERF_TEST_PHONE = """Session creation time cost: 0.125 s
Total inference time cost: 0.05 s
Total inference requests: 4
Average inference time cost: 12.5 ms
Total inference run time: 0.0502 s
Avg CPU usage: 68 %
Peak working set size: 158171136 bytes
"""
# microsoft/onnxruntime#17313: the names of 2019, percentiles with "is".
PERF_TEST_2019 = """Total time cost:0.05
Total iterations:4
Average time cost:12.5 ms
Min Latency is 0.0115 sec
Max Latency is 0.015sec
P50 Latency is 0.012 sec
P90 Latency is 0.015 sec
P95 Latency is 0.015 sec
P99 Latency is 0.015 sec
P999 Latency is 0.015 sec
"""
# Arm's learning path on ONNX Runtime with SME2, and bianbu's page for SpacemiT's K1; performance_
# runner.cc of microsoft/onnxruntime.
PERF_TEST_NOW = """Setting intra_op_num_threads to 1
Session creation time cost: 0.125 s
First inference time cost: 16 ms
Total inference time cost: 0.05 s
Total inference requests: 4
Average inference time cost total: 12.500000 ms
Total inference run time: 0.0502 s
Number of inferences per second: 79.68
Avg CPU usage: 11 %
Peak working set size: 27112243 bytes
Avg CPU usage:11
Peak working set size:27112243
Runs:4
Min Latency: 0.0115 s
Max Latency: 0.015 s
P50 Latency: 0.012 s
P90 Latency: 0.015 s
P95 Latency: 0.015 s
P99 Latency: 0.015 s
P999 Latency: 0.015 s
"""
# DumpToFile in performance_runner.cc of microsoft/onnxruntime: folder, seconds, bytes, CPU, number.
PERF_TEST_RESULT = """multimodal,0.015,27112243,11,0
multimodal,0.012,27112243,11,1
multimodal,0.0115,27112243,11,2
multimodal,0.0115,27112243,11,3

Min Latency: 0.0115 s
P50 Latency: 0.012 s
"""

# tensorflow/tensorflow#42507 and #43541 (2020).
BENCHMARK_2020 = """Initialized session in 0.855ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding \
150 seconds.
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding \
150 seconds.
count=50 first=33000 curr=33200 min=32500 max=36000 avg=33209.4 std=510

Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, \
Inference (avg): 33209.4
Peak memory footprint (MB): init=0 overall=12.5
"""
# tensorflow/tensorflow#61946 (prefix), #56301 (percentiles), google-ai-edge/LiteRT#75 (a phone);
# benchmark_model.cc of google-ai-edge/LiteRT.
BENCHMARK_NOW = """INFO: Graph: [/data/local/tmp/msd-bench-0123456789ab/litert-fp32/model.tflite]
INFO: Initialized session in 12.25ms.
INFO: Running benchmark for at least 10 iterations and at least 0.5 seconds but terminate if \
exceeding 300 seconds.
INFO: count=40 first=9000 curr=4100 min=4000 max=9000 avg=4500 std=800 p5=4000 median=4200 p95=8000

INFO: Running benchmark for at least 50 iterations and at least 0 seconds but terminate if \
exceeding 300 seconds.
INFO: count=50 first=4000 curr=4100 min=3900 max=5.2e+03 avg=4050.5 std=98 p5=3950 median=4040 \
p95=4200

INFO: Inference timings in us: Init: 12250, First inference: 9000, Warmup (avg): 4500, \
Inference (avg): 4050.5
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only \
APPROXIMATE to the actual memory footprint of the model at runtime.
INFO: Memory footprint delta from the start of the tool (MB): init=3.75 overall=12.1875
INFO: Overall peak memory footprint (MB) via periodic monitoring: 14.5
"""
# tensorflow/tensorflow#56301: the benchmark app, in logcat.
BENCHMARK_LOGCAT = """--------- beginning of main
05-30 15:16:40.000  3380  3380 I tflite  : count=1 curr=32942
05-30 15:16:46.366  3380  3380 I tflite  : count=50 first=33000 curr=33200 min=32500 max=36000 \
avg=33209.4 std=510 p5=32600 median=33100 p95=34000
05-30 15:16:46.366  3380  3380 I tflite  : Inference timings in us: Init: 126059, First \
inference: 32942, Warmup (avg): 32942, Inference (avg): 33209.4
"""
# yuenshome/yuenshome.github.io#77 (2018 and 2019).
BENCHMARK_2018 = """Initialized session in 9.933ms
Running benchmark for at least 1 iterations and at least 0.5 seconds
count=7 first=80000 curr=76000 min=75000 max=80000 avg=76605.9 std=1000

Running benchmark for at least 50 iterations and at least 1 seconds
count=50 first=66000 curr=67000 min=65000 max=69000 avg=66767.6 std=500

Average inference timings in us: Warmup: 76605.9, Init: 9933, no stats: 66767.6
"""
# google/XNNPACK#999: one run has the value alone; numbers in exponents.
BENCHMARK_ONE_RUN = """Running benchmark for at least 1 iterations and at least 0.5 seconds
count=1 curr=640000

Running benchmark for at least 1 iterations and at least 0 seconds
count=1 curr=637079

Inference timings in us: Init: 9.99242e+06, First inference: 640000, Warmup (avg): 640000, \
Inference (avg): 637079
"""
# mlcommons/mobile_app_open#1134; benchmark_litert_model.h of google-ai-edge/LiteRT, whose base
# prints the lines with count=, in microseconds, before its own block, in milliseconds. The warning
# is of benchmark_model.cc; this tool has no option for the values of inputs.
COMPILED_MODEL = """WARN: Unconsumed cmdline flags: --input_layer=image --input_layer_shape=1
INFO: Running benchmark for at least 10 iterations and at least 0.5 seconds
INFO: count=10 first=9000 curr=4100 min=4000 max=9000 avg=4500 std=800
INFO: Running benchmark for at least 50 iterations and at least 0 seconds
INFO: count=50 first=4000 curr=4100 min=3900 max=5200 avg=4050.5 std=98
INFO: [benchmark_litert_model.h:92]
========== BENCHMARK RESULTS ==========
INFO: [benchmark_litert_model.h:94] Model initialization: 23.73 ms
INFO: [benchmark_litert_model.h:95] Warmup (first):       9.00 ms
INFO: [benchmark_litert_model.h:97] Warmup (avg):         4.50 ms (10 runs)
INFO: [benchmark_litert_model.h:100] Inference (avg):      4.05 ms (50 runs)
INFO: [benchmark_litert_model.h:103] Inference (min):      3.90 ms
INFO: [benchmark_litert_model.h:105] Inference (max):      5.20 ms
INFO: [benchmark_litert_model.h:107] Inference (std):      0.10
INFO: [benchmark_litert_model.h:115] Throughput:           35.10 MB/s
INFO: [benchmark_litert_model.h:126] Init footprint:       3.50 MB
INFO: [benchmark_litert_model.h:128] Overall footprint:    12.25 MB
INFO: [benchmark_litert_model.h:133] Peak memory:          14.50 MB
"""

# pytorch/executorch#1231 (x86) and #6516 (Jetson), 2023 and 2024: no time, only stamps.
RUNNER_2024 = """I 00:00:00.437405 executorch:executor_runner.cpp:219] Inputs prepared.
I 00:00:01.687405 executorch:executor_runner.cpp:228] Model executed successfully.
I 00:00:01.687500 executorch:executor_runner.cpp:232] 1 outputs:
"""
# ExecuTorch's guide "Building from source" (2025): the total of all runs.
RUNNER_2025 = """I 00:00:00.002000 executorch:executor_runner.cpp:350] Inputs prepared.
I 00:00:00.020000 executorch:executor_runner.cpp:379] Model executed successfully 4 time(s) in \
50.000000 ms.
"""
# executor_runner.cpp of pytorch/executorch at 018a3a52 (2026); the build for WebAssembly has no
# stamp.
RUNNER_2026 = """I executorch:executor_runner.cpp:600] Model loaded in 125.250000 ms.
I executorch:executor_runner.cpp:880] Iteration 1 of 4: 15.000000 ms
I executorch:executor_runner.cpp:880] Iteration 2 of 4: 12.000000 ms
I executorch:executor_runner.cpp:880] Iteration 3 of 4: 11.500000 ms
I executorch:executor_runner.cpp:880] Iteration 4 of 4: 11.500000 ms
I executorch:executor_runner.cpp:890] Model executed successfully 4 time(s) in 50.000000 ms.
"""
# pytorch/executorch#18802, and android.cpp: on a phone the messages alone, in logcat.
RUNNER_LOGCAT = """--------- beginning of main
11-30 22:00:00.100  4711  4711 I ExecuTorch: Model loaded in 999.000000 ms.
11-30 22:00:01.000  4712  4712 I ExecuTorch: Model loaded in 125.250000 ms.
11-30 22:00:01.010  4712  4712 I ExecuTorch: Iteration 1 of 4: 15.000000 ms
11-30 22:00:01.020  4711  4711 I ExecuTorch: Iteration 1 of 4: 99.000000 ms
11-30 22:00:01.022  4712  4712 I ExecuTorch: Iteration 2 of 4: 12.000000 ms
11-30 22:00:01.034  4712  4712 I ExecuTorch: Iteration 3 of 4: 11.500000 ms
11-30 22:00:01.046  4712  4712 I ExecuTorch: Iteration 4 of 4: 11.500000 ms
11-30 22:00:01.047  4712  4712 I ExecuTorch: Model executed successfully 4 time(s) in 50.000000 ms.
"""
# pytorch/executorch#5199: Qualcomm's runner.
RUNNER_QNN = (
    "I 00:00:01.0 executorch:qnn_executor_runner.cpp:400] 100 inference took 214.295000 ms, \
avg 2.142950 ms\n"
)
# pytorch/executorch#4005 and #15547: what a phone's terminal shows.
RUNNER_STDOUT = "OutputX 0: tensor(sizes=[1, 2], [0.5, 0.5])\n"

# bryanroscoe/shield_optimizer#6: the cached block is of the last event.
THERMAL = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=37.0, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=30.0, mType=2, mName=battery, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=66.5, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=31.200001, mType=3, mName=skin, mStatus=0}
\tTemperature{mValue=100.0, mType=6, mName=vbat, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=5, mName=tpu_cooling}
"""
# MaheshSharan/FrameX-Android#19 and #46.
THERMAL_NOT_READY = "IsStatusOverride: false\nThermal Status: 0\nHAL Ready: false\n"
# Android 9 and older have no such service.
THERMAL_MISSING = "Can't find service: thermalservice\n"

# google/syzkaller#79.
BATTERY = """Current Battery Service state:
  AC powered: true
  USB powered: false
  Wireless powered: false
  Max charging current: 2400000
  status: 2
  health: 2
  present: true
  level: 19
  scale: 100
  voltage: 3764
  temperature: 275
  technology: Li-ion
"""
# appium/appium-adb#133: 0 for what is not known.
BATTERY_OLD = """Current Battery Service state:
  AC powered: true
  USB powered: false
  status: 2
  health: 2
  present: true
  level: 50
  scale: 100
  voltage: 0
  temperature: 0
  technology: Li-ion
"""
# zebrunner/mcloud-device#150: Samsung's lines, some of them twice in another spelling.
BATTERY_SAMSUNG = """Current Battery Service state:
  USB powered: true
  Charge counter: 2000000
  status: 5
  level: 100
  scale: 100
  voltage: 4300
  temperature: 312
  charge counter: 1
  current now: 12
  mSavedBatteryAsoc: 96
  level: 3
"""
# VR-25/acc#195: unplugged.
BATTERY_DISCHARGING = BATTERY.replace("AC powered: true", "AC powered: false").replace(
    "status: 2", "status: 3"
)
