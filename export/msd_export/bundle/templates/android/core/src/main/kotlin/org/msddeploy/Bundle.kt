package org.msddeploy

import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest

private const val MANIFEST = "manifest.json"
private const val REMEDY = "Copy the whole bundle again."

/**
 * A verified bundle: a model with its preprocessing and its labels.
 *
 * @property form The model's format and precision, such as "onnx-fp32".
 * @property model The name of the model's file, for [read].
 * @property digest The SHA-256 of manifest.json, which identifies the bundle.
 * @property exportDigest The digest of the export that the bundle was made of.
 */
public class Bundle private constructor(
    private val files: (String) -> InputStream,
    private val digests: Map<String, String>,
    public val form: String,
    public val model: String,
    public val digest: String,
    public val exportDigest: String,
) {
    /** The tokenizer, of text.json. */
    public val tokenizer: Tokenizer = Tokenizer.read(read("text.json"))

    /** How an image becomes the model's input, of preprocess.json. */
    public val image: ImageSpec = ImageSpec.read(read("preprocess.json"))

    /** Classes and decisions, of labels.json. */
    public val labels: Labels = Labels.read(read("labels.json"))

    /**
     * Returns the content of a file of the bundle after verifying its digest again.
     *
     * @throws BundleException The file is not in the bundle, or is damaged or missing.
     */
    public fun read(name: String): ByteArray {
        val expected = digests[name]
            ?: throw BundleException("$name: is not listed in $MANIFEST. $REMEDY")
        val content = readAll(files, name)
        check(name, sha256().digest(content), expected)
        return content
    }

    public companion object {
        /**
         * Opens a bundle and verifies the SHA-256 of every file that manifest.json lists.
         *
         * @param files Opens a file of the bundle by its name, such as
         *   `{ assets.open("model/$it") }`. Each stream is closed.
         * @throws BundleException A file is damaged, missing or of an unknown version.
         */
        public fun open(files: (String) -> InputStream): Bundle {
            val content = readAll(files, MANIFEST)
            val manifest = Json.parse(content, MANIFEST)
            manifest["schema_version"].expect(1L)
            manifest["kind"].expect("bundle")
            manifest["platform"].expect("android")
            val digests = manifest["files"].entries().mapValues { (name, digest) ->
                if (!isInside(name)) digest.fail("is not the path of a file in the bundle")
                digest.text()
            }
            val model = manifest["model"].text()
            if (model !in digests) manifest["model"].fail("is $model, which files does not list")
            val buffer = ByteArray(1 shl 16)
            for ((name, expected) in digests) {
                val digest = sha256()
                reading(files, name) { stream ->
                    generateSequence { stream.read(buffer) }.takeWhile { it >= 0 }
                        .forEach { digest.update(buffer, 0, it) }
                }
                check(name, digest.digest(), expected)
            }
            return Bundle(
                files,
                digests,
                manifest["form"].text(),
                model,
                hexadecimal(sha256().digest(content)),
                manifest["export_digest"].text(),
            )
        }

        private fun isInside(name: String): Boolean =
            '\\' !in name && name.split('/').none { it in setOf("", ".", "..") }

        private fun check(name: String, digest: ByteArray, expected: String) {
            if (hexadecimal(digest) != expected) {
                throw BundleException(
                    "$name: is damaged: its SHA-256 is not that of $MANIFEST. $REMEDY",
                )
            }
        }
    }
}

internal fun readAll(files: (String) -> InputStream, name: String): ByteArray =
    reading(files, name) { it.readBytes() }

internal fun sha256(): MessageDigest = MessageDigest.getInstance("SHA-256")

internal fun hexadecimal(digest: ByteArray): String {
    val digits = "0123456789abcdef"
    return digest.joinToString("") { byte ->
        val value = byte.toInt() and 255
        "${digits[value / 16]}${digits[value % 16]}"
    }
}

private inline fun <T> reading(
    files: (String) -> InputStream,
    name: String,
    use: (InputStream) -> T,
): T = try {
    files(name).use(use)
} catch (error: IOException) {
    throw BundleException("$name: is missing or cannot be read ($error). $REMEDY", error)
}
