// A stub of published signatures, for compiling alone: it never runs.
package ai.onnxruntime;

public abstract class OnnxTensorLike implements OnnxValue {
    OnnxTensorLike() {}

    @Override
    public void close() {
        throw new UnsupportedOperationException("stub");
    }
}
