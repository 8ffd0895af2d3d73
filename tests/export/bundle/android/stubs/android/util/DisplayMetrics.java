// A stub of published signatures, for compiling alone: it never runs.
package android.util;

public class DisplayMetrics {
    public float density;
}
