// A stub of published signatures, for compiling alone: it never runs.
package android.os;

public final class PowerManager {
    public static final int THERMAL_STATUS_NONE = 0;
    public static final int THERMAL_STATUS_LIGHT = 1;
    public static final int THERMAL_STATUS_MODERATE = 2;
    public static final int THERMAL_STATUS_SEVERE = 3;
    public static final int THERMAL_STATUS_CRITICAL = 4;
    public static final int THERMAL_STATUS_EMERGENCY = 5;
    public static final int THERMAL_STATUS_SHUTDOWN = 6;

    private PowerManager() {}

    public int getCurrentThermalStatus() {
        throw new UnsupportedOperationException("stub");
    }

    public boolean isPowerSaveMode() {
        throw new UnsupportedOperationException("stub");
    }
}
