// A stub of published signatures, for compiling alone: it never runs.
package android.content;

import android.content.res.AssetManager;
import android.content.res.Resources;
import java.io.File;

public class ContextWrapper extends Context {
    public ContextWrapper(Context base) {
        throw new UnsupportedOperationException("stub");
    }

    @Override
    public AssetManager getAssets() {
        throw new UnsupportedOperationException("stub");
    }

    @Override
    public ContentResolver getContentResolver() {
        throw new UnsupportedOperationException("stub");
    }

    @Override
    public File getExternalFilesDir(String type) {
        throw new UnsupportedOperationException("stub");
    }

    @Override
    public File getFilesDir() {
        throw new UnsupportedOperationException("stub");
    }

    @Override
    public Resources getResources() {
        throw new UnsupportedOperationException("stub");
    }
}
