package org.msddeploy

import java.io.ByteArrayInputStream
import java.io.File
import java.io.FileNotFoundException
import java.io.InputStream
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

/** Returns a bundle in memory, with the specification's files and no real model. */
internal fun bundleFiles(more: Map<String, ByteArray> = emptyMap()): MutableMap<String, ByteArray> {
    val files = linkedMapOf(
        "model.onnx" to "a model".toByteArray(),
        "labels.json" to File(SPEC, "labels.json").readBytes(),
        "preprocess.json" to File(SPEC, "preprocess.json").readBytes(),
        "text.json" to File(VECTORS, "text.json").readBytes(),
    )
    files.putAll(more)
    val digests = files.entries.joinToString { "\"${it.key}\": \"${sha256Of(it.value)}\"" }
    files["manifest.json"] =
        """{"schema_version": 1, "kind": "bundle", "platform": "android", "form": "onnx-fp32",
            "model": "model.onnx", "msd_deploy": "0.1.0",
            "created_utc": "2026-01-01T00:00:00+00:00", "export_digest": "ab", "files": {$digests}}""".toByteArray()
    return files
}

internal fun streams(files: Map<String, ByteArray>): (String) -> InputStream =
    { name -> ByteArrayInputStream(files[name] ?: throw FileNotFoundException(name)) }

internal fun Tests.bundleTests() {
    test("a whole bundle is opened") {
        val files = bundleFiles()
        val bundle = Bundle.open(streams(files))
        assertEquals("onnx-fp32", bundle.form)
        assertEquals("ab", bundle.exportDigest)
        assertEquals(sha256Of(files.getValue("manifest.json")), bundle.digest)
        assertEquals(listOf("benign", "hateful"), bundle.labels.names)
        assertEquals(48, bundle.image.width)
        assertEquals(16, bundle.tokenizer.maxLength)
        assertContentEquals("a model".toByteArray(), bundle.read(bundle.model))
    }

    test("a bundle that Python has written is opened, and its texts and noise are Python's") {
        val folder = File(System.getProperty("msddeploy.bundle"))
        val bundle = Bundle.open { name -> File(folder, name).inputStream() }
        val vectors = jsonOf(File(folder, "vectors.json"))
        for (vector in vectors["texts"].items()) {
            val tokens = bundle.tokenizer.encode(vector["text"].text())
            val ids = vector["ids"].items().map { it.int(0..Int.MAX_VALUE) }
            assertEquals(ids, tokens.inputIds.take(tokens.attentionMask.sum()))
        }
        for (vector in vectors["noise"].items()) {
            val digest = sha256Of(bundle.image.pixels(noise(vector)))
            assertEquals(vector["model_pixels"].text(), digest)
        }
    }

    test("a damaged or missing file is named") {
        for (name in listOf("model.onnx", "labels.json", "preprocess.json", "text.json")) {
            val files = bundleFiles()
            files[name] = files.getValue(name).also { it[it.size / 2]++ }
            assertFails("$name: is damaged", files)
            files.remove(name)
            assertFails("$name: is missing", files)
        }
        assertFails("manifest.json: is missing", bundleFiles().also { it.remove("manifest.json") })
    }

    test("a file that is damaged after opening is not returned") {
        val files = bundleFiles()
        val bundle = Bundle.open(streams(files))
        files["model.onnx"] = "another".toByteArray()
        val damaged = assertFailsWith<BundleException> { bundle.read("model.onnx") }
        assertTrue("model.onnx: is damaged" in damaged.message!!)
        val unknown = assertFailsWith<BundleException> { bundle.read("x") }
        assertTrue("x: is not listed" in unknown.message!!)
    }

    test("another manifest is refused with its key") {
        val changes = mapOf(
            "manifest.json: schema_version is 2" to ("_version\": 1" to "_version\": 2"),
            "manifest.json: kind is vectors" to ("\"bundle\"" to "\"vectors\""),
            "manifest.json: platform is ios" to ("android" to "ios"),
            "manifest.json: model is x.onnx, which" to ("\"model\": \"model" to "\"model\": \"x"),
            "manifest.json: files[\"../a\"] is not the path" to ("\"text.json" to "\"../a"),
            "manifest.json: lacks the key \"export_digest\"" to ("\"export_d" to "\"d"),
            "labels.json: is not listed" to ("\"labels.json" to "\"model.onnx2"),
            "manifest.json: files[\"text.json\"] is 1" to
                ("\"${sha256Of(bundleFiles().getValue("text.json"))}\"" to "1"),
        )
        for ((message, change) in changes) {
            val files = bundleFiles()
            val manifest = files.getValue("manifest.json").decodeToString()
            assertTrue(change.first in manifest)
            files["manifest.json"] = manifest.replace(change.first, change.second).toByteArray()
            files["model.onnx2"] = files.getValue("labels.json")
            assertFails(message, files)
        }
    }
}

private fun assertFails(message: String, files: Map<String, ByteArray>) {
    val error = assertFailsWith<BundleException> { Bundle.open(streams(files)) }
    assertTrue(message in error.message!!, error.message)
}
