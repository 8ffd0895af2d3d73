// A stub of published signatures, for compiling alone: it never runs.
package ai.onnxruntime;

public enum OnnxJavaType { UINT8 }
