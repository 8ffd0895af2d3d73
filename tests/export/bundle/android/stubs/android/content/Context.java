// A stub of published signatures, for compiling alone: it never runs.
package android.content;

import android.content.res.AssetManager;
import android.content.res.Resources;
import java.io.File;

public abstract class Context {
    public abstract AssetManager getAssets();
    public abstract ContentResolver getContentResolver();
    public abstract File getExternalFilesDir(String type);
    public abstract File getFilesDir();
    public abstract Resources getResources();

    public final <T> T getSystemService(Class<T> serviceClass) {
        throw new UnsupportedOperationException("stub");
    }
}
