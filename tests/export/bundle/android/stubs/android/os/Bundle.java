// A stub of published signatures, for compiling alone: it never runs.
package android.os;

public final class Bundle {
    public Bundle() {
        throw new UnsupportedOperationException("stub");
    }
}
