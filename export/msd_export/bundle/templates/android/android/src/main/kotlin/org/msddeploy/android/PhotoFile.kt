package org.msddeploy.android

import android.content.Context
import android.net.Uri
import java.io.ByteArrayOutputStream
import java.io.IOException
import java.io.InputStream
import org.msddeploy.BundleException

private const val MOST_BYTES = 100_000_000

/**
 * Returns the file of a photo that was chosen or shared, for [BitmapDecoder].
 *
 * It may come over the network: call it on a background thread.
 *
 * @throws BundleException The photo cannot be read or may not be, has no content, or has more than
 *   100 MB.
 */
public fun readPhoto(context: Context, photo: Uri): ByteArray {
    val content = try {
        context.contentResolver.openInputStream(photo)?.use(::limited)
    } catch (error: IOException) {
        throw unreadable(error)
    } catch (error: RuntimeException) {
        // Any exception of the app that has the photo; SecurityException without permission.
        throw unreadable(error)
    }
    return content ?: throw BundleException("The photo has no content. Choose it again.")
}

private fun limited(stream: InputStream): ByteArray {
    val content = ByteArrayOutputStream()
    val buffer = ByteArray(1 shl 16)
    while (content.size() <= MOST_BYTES) {
        val count = stream.read(buffer)
        if (count < 0) return content.toByteArray()
        content.write(buffer, 0, count)
    }
    throw IOException("it has more than $MOST_BYTES bytes")
}

private fun unreadable(error: Exception) =
    BundleException("The photo cannot be read ($error). Choose another one.", error)
