// A stub of published signatures, for compiling alone: it never runs.
package android.os;

public class Build {
    public static class VERSION {
        // Not a constant of the compiler, as on Android.
        public static final int SDK_INT = Integer.parseInt("0");
    }

    public static class VERSION_CODES {
        public static final int Q = 29;
    }
}
