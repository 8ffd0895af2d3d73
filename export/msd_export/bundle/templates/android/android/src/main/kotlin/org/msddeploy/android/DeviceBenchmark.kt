package org.msddeploy.android

import android.content.Context
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import org.msddeploy.BenchmarkOptions
import org.msddeploy.BenchmarkResult
import org.msddeploy.Conditions
import org.msddeploy.Device
import org.msddeploy.MultimodalClassifier
import org.msddeploy.Thermal

/**
 * Measures the model on this device; see [MultimodalClassifier.benchmark] of the core.
 *
 * Adds the device and its state: temperature from Android 10 on, battery, charging, and whether the
 * device saves power. Takes about 10 seconds, more from some 15 ms a run, and 1 to 2 seconds for a
 * tiny model: call it on a background thread, and keep the screen on.
 *
 * @param photo An image file; null for the first image of the self-test.
 * @param text The text of the photo; null for that of the same example.
 * @param options The number of rounds and samples.
 * @throws org.msddeploy.BundleException The photo cannot be decoded, or the classifier is closed.
 * @throws InterruptedException The thread was interrupted.
 */
// Not an overload of the member: the IDE would offer no import of it.
public fun MultimodalClassifier.benchmarkOnDevice(
    context: Context,
    photo: ByteArray? = null,
    text: String? = null,
    options: BenchmarkOptions = BenchmarkOptions(),
): BenchmarkResult = benchmark(
    BitmapDecoder(bundle.image),
    thisDevice(),
    photo,
    text,
    options,
    conditions = { conditions(context) },
)

private fun thisDevice() = Device(
    model = "${Build.MANUFACTURER} ${Build.MODEL}",
    system = "Android ${Build.VERSION.RELEASE}",
    cores = Runtime.getRuntime().availableProcessors(),
)

private fun conditions(context: Context): Conditions {
    val power = context.getSystemService(PowerManager::class.java)
    val battery = context.getSystemService(BatteryManager::class.java)
    val percent = battery?.getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY)
    return Conditions(
        thermal = power?.let(::thermal),
        // Where it is not known, Android returns 0 or a negative number.
        battery = percent?.takeIf { it in 1..100 }?.let { it / 100.0 },
        isCharging = battery?.isCharging,
        isLowPower = power?.isPowerSaveMode,
    )
}

private fun thermal(power: PowerManager): Thermal? {
    if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) return null
    return when (power.currentThermalStatus) {
        PowerManager.THERMAL_STATUS_NONE -> Thermal.NONE
        PowerManager.THERMAL_STATUS_LIGHT -> Thermal.LIGHT
        PowerManager.THERMAL_STATUS_MODERATE -> Thermal.MODERATE
        PowerManager.THERMAL_STATUS_SEVERE -> Thermal.SEVERE
        PowerManager.THERMAL_STATUS_CRITICAL,
        PowerManager.THERMAL_STATUS_EMERGENCY,
        PowerManager.THERMAL_STATUS_SHUTDOWN,
        -> Thermal.CRITICAL
        else -> null
    }
}
