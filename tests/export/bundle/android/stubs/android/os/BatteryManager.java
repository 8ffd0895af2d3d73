// A stub of published signatures, for compiling alone: it never runs.
package android.os;

public class BatteryManager {
    public static final int BATTERY_PROPERTY_CAPACITY = 4;

    BatteryManager() {}

    public int getIntProperty(int id) {
        throw new UnsupportedOperationException("stub");
    }

    public boolean isCharging() {
        throw new UnsupportedOperationException("stub");
    }
}
