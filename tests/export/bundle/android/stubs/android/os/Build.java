// A stub of published signatures, for compiling alone: it never runs.
package android.os;

public class Build {
    // Not constants of the compiler, as on Android.
    public static final String MANUFACTURER = String.valueOf("");
    public static final String MODEL = String.valueOf("");

    public static class VERSION {
        public static final String RELEASE = String.valueOf("");
        public static final int SDK_INT = Integer.parseInt("0");
    }

    public static class VERSION_CODES {
        public static final int Q = 29;
    }
}
