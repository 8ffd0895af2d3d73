// A stub of published signatures, for compiling alone: it never runs.
package android.content.res;

import java.io.IOException;
import java.io.InputStream;

public final class AssetManager {
    private AssetManager() {}

    public InputStream open(String fileName) throws IOException {
        throw new UnsupportedOperationException("stub");
    }
}
