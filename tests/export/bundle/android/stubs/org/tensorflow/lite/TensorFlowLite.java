// A stub of published signatures, for compiling alone: it never runs.
package org.tensorflow.lite;

public final class TensorFlowLite {
    private TensorFlowLite() {}

    public static String runtimeVersion() {
        throw new UnsupportedOperationException("stub");
    }
}
