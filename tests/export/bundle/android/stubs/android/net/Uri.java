// A stub of published signatures, for compiling alone: it never runs.
package android.net;

public abstract class Uri {
    private Uri() {}
}
