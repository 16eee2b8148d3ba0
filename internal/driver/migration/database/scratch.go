package database

import (
	"crypto/rand"
	"errors"
	"net/url"
	"strings"
)

// ScratchPrefix begins the names of scratch databases.
const ScratchPrefix = OwnPrefix + "scratch_"

// ScratchName is a new name for a scratch database.
func ScratchName() string { return ScratchPrefix + strings.ToLower(rand.Text()[:12]) }

// WithDatabase is a URL with another database. Nothing of it gets into the error.
func WithDatabase(address, name string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" && u.Path == "" {
		return "", errors.New("make a scratch database: the address is no URL; name a scratch database with --scratch")
	}
	q := u.Query()
	for _, other := range []string{"dbname", "database"} { // PostgreSQL's: they go before the path
		q.Del(other)
	}
	u.Path, u.RawPath, u.RawQuery = "/"+name, "", q.Encode()
	return u.String(), nil
}
