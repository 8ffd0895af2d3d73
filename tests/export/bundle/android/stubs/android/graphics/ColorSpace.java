// A stub of published signatures, for compiling alone: it never runs.
package android.graphics;

public abstract class ColorSpace {
    public enum Named { SRGB }

    public static ColorSpace get(Named name) {
        throw new UnsupportedOperationException("stub");
    }
}
