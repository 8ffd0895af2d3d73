// A stub of published signatures, for compiling alone: it never runs.
package org.tensorflow.lite;

import java.nio.ByteBuffer;

public final class Interpreter extends InterpreterImpl implements InterpreterApi {
    public Interpreter(ByteBuffer byteBuffer, Options options) {
        throw new UnsupportedOperationException("stub");
    }

    public static class Options extends InterpreterImpl.Options {
        public Options() {}

        @Override
        public Options setNumThreads(int numThreads) {
            throw new UnsupportedOperationException("stub");
        }
    }
}
