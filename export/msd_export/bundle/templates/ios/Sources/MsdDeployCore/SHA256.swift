import Foundation

/// SHA-256 (FIPS 180-4) of bytes that arrive in parts, since CryptoKit is absent on Linux.
struct SHA256 {
    private var state = SIMD8<UInt32>(
        0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a,
        0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19)
    private var pending: [UInt8] = []
    private var byteCount: UInt64 = 0

    /// Adds bytes behind those that were added before.
    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        byteCount += UInt64(bytes.count)
        var start = 0
        if !pending.isEmpty {
            start = min(Self.blockSize - pending.count, bytes.count)
            pending += bytes[..<start]
            guard pending.count == Self.blockSize else { return }
            pending.withUnsafeBytes { Self.compress($0, into: &state) }
            pending.removeAll(keepingCapacity: true)
        }
        while bytes.count - start >= Self.blockSize {
            let block = bytes[start..<start + Self.blockSize]
            Self.compress(UnsafeRawBufferPointer(rebasing: block), into: &state)
            start += Self.blockSize
        }
        pending += bytes[start...]
    }

    /// Returns the digest of all bytes so far in 64 hexadecimal digits.
    func hexDigest() -> String {
        var last = self
        let zeros = (2 * Self.blockSize - 9 - pending.count) % Self.blockSize
        var padding = [0x80] + [UInt8](repeating: 0, count: zeros)
        padding += withUnsafeBytes(of: (byteCount * 8).bigEndian, Array.init)
        padding.withUnsafeBytes { last.update($0) }
        return last.state.indices.map { index in
            let digits = String(last.state[index], radix: 16)
            return String(repeating: "0", count: 8 - digits.count) + digits
        }.joined()
    }

    /// Returns the digest of bytes in hexadecimal digits.
    static func hexDigest(of bytes: some ContiguousBytes) -> String {
        var digest = SHA256()
        bytes.withUnsafeBytes { digest.update($0) }
        return digest.hexDigest()
    }

    /// Returns the digest of a file in hexadecimal digits; nil if it cannot be read.
    ///
    /// Holds 64 kB of the file at a time.
    static func hexDigest(ofFileAt url: URL) -> String? {
        guard let stream = InputStream(url: url) else { return nil }
        stream.open()
        defer { stream.close() }
        var digest = SHA256()
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = stream.read(&buffer, maxLength: buffer.count)
            if count < 0 { return nil }
            if count == 0 { return digest.hexDigest() }
            buffer.withUnsafeBytes { digest.update(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
        }
    }

    private static let blockSize = 64

    private static func compress(_ block: UnsafeRawBufferPointer, into state: inout SIMD8<UInt32>) {
        let constants = Self.constants
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { schedule in
            for i in 0..<16 {
                let word = block.loadUnaligned(fromByteOffset: 4 * i, as: UInt32.self)
                schedule[i] = UInt32(bigEndian: word)
            }
            for i in 16..<64 {
                let (early, late) = (schedule[i - 15], schedule[i - 2])
                let s0 = rotated(early, 7) ^ rotated(early, 18) ^ (early >> 3)
                let s1 = rotated(late, 17) ^ rotated(late, 19) ^ (late >> 10)
                schedule[i] = schedule[i - 16] &+ s0 &+ schedule[i - 7] &+ s1
            }
            var (a, b, c, d) = (state[0], state[1], state[2], state[3])
            var (e, f, g, h) = (state[4], state[5], state[6], state[7])
            for i in 0..<64 {
                let s1 = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)
                let choice = (e & f) ^ (~e & g)
                let first = h &+ s1 &+ choice &+ constants[i] &+ schedule[i]
                let s0 = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)
                let majority = (a & b) ^ (a & c) ^ (b & c)
                (h, g, f, e) = (g, f, e, d &+ first)
                (d, c, b, a) = (c, b, a, first &+ s0 &+ majority)
            }
            state &+= SIMD8(a, b, c, d, e, f, g, h)
        }
    }

    @inline(__always)
    private static func rotated(_ word: UInt32, _ bits: UInt32) -> UInt32 {
        word >> bits | word << (32 - bits)
    }

    private static let constants: [UInt32] = [
        0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5,
        0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
        0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3,
        0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
        0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc,
        0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
        0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7,
        0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
        0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13,
        0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
        0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3,
        0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
        0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5,
        0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
        0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208,
        0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
    ]
}
