// A stub of published signatures, for compiling alone: it never runs.
package android;

public final class R {
    public static final class id {
        public static final int edit = 0x01020003;
    }
}
