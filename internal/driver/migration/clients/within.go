package clients

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/backstay-dev/backstay/internal/driver/migration/mysql"
)

// within takes the name out of what a dump of MariaDB or MySQL says of its database:
// the programs set its character set around what was made under another one. Without
// a name it is the database that the dump is loaded into. A dump is as large as its
// database, so spaces are written over the name where it stands.
func within(path, database string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("look at the dump: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	name := mysql.Dialect{}.Quote(database)
	line := []byte("ALTER DATABASE " + name + " CHARACTER SET ")
	in := bufio.NewReaderSize(f, 1<<20)
	begins := true // of a line; a long one comes in several pieces
	for at := int64(0); ; {
		piece, err := in.ReadSlice('\n')
		if begins && bytes.HasPrefix(piece, line) {
			if _, err := f.WriteAt(bytes.Repeat([]byte(" "), len(name)), at+int64(len("ALTER DATABASE "))); err != nil {
				return fmt.Errorf("take the name of the database out of its dump: %w", err)
			}
		}
		at += int64(len(piece))
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("look at the dump: %w", err)
		}
		begins = err == nil
	}
}
