package proxy

import (
	"crypto/sha1" //nolint:gosec // the convention of flag systems; nothing is kept secret by it
	"encoding/hex"
	"strconv"
)

// Bucket is the place of a user in [0, 1) by LaunchDarkly's convention: the
// first 15 hexadecimal digits of SHA-1("key.salt.value"), divided by 2^60 - 1.
// Flags use the same one, so that a flag and a route with one key and salt put
// a user in the same bucket.
func Bucket(key, salt, value string) float64 {
	sum := sha1.Sum([]byte(key + "." + salt + "." + value)) //nolint:gosec // see above
	n, err := strconv.ParseUint(hex.EncodeToString(sum[:])[:15], 16, 64)
	if err != nil {
		panic("proxy: hexadecimal digits that are none") // cannot be
	}
	return float64(n) / float64(0xFFFFFFFFFFFFFFF)
}
