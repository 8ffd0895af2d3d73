// A stub of published signatures, for compiling alone: it never runs.
package android.graphics;

public class Color {
    public static int rgb(int red, int green, int blue) {
        throw new UnsupportedOperationException("stub");
    }
}
