import Testing

@testable import MsdDeployCore

@Test(arguments: [
    ("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ("a", 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
])
func digestsEqualKnownAnswers(text: String, count: Int, expected: String) {
    #expect(
        SHA256.hexDigest(of: Array(repeating: Array(text.utf8), count: count).flatMap { $0 })
            == expected)
}

@Test func partsHaveTheDigestOfTheWhole() {
    let bytes = (0..<1000).map { UInt8(truncatingIfNeeded: $0 * 7) }
    for size in [1, 7, 63, 64, 65, 129] {
        var digest = SHA256()
        for start in stride(from: 0, to: bytes.count, by: size) {
            bytes[start..<min(start + size, bytes.count)].withUnsafeBytes { digest.update($0) }
        }
        #expect(digest.hexDigest() == SHA256.hexDigest(of: bytes))
    }
}
