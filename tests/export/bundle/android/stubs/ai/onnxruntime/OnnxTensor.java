// A stub of published signatures, for compiling alone: it never runs.
package ai.onnxruntime;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;

public class OnnxTensor extends OnnxTensorLike {
    OnnxTensor() {}

    public static OnnxTensor createTensor(
            OrtEnvironment env, ByteBuffer data, long[] shape, OnnxJavaType type)
            throws OrtException {
        throw new UnsupportedOperationException("stub");
    }

    public static OnnxTensor createTensor(OrtEnvironment env, IntBuffer data, long[] shape)
            throws OrtException {
        throw new UnsupportedOperationException("stub");
    }

    public FloatBuffer getFloatBuffer() {
        throw new UnsupportedOperationException("stub");
    }
}
