package service

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// buildID is what no other build of the program has: the linker's build id where
// there is one, which is quick to find, else the digest of the whole file.
func buildID() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("identify this build: %w", err)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("identify this build: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	digest := sha256.New()
	if id := linkerID(file); len(id) > 0 {
		digest.Write(id)
	} else if _, err := io.Copy(digest, file); err != nil {
		return "", fmt.Errorf("identify this build: %w", err)
	}
	return hex.EncodeToString(digest.Sum(nil)[:16]), nil
}

// linkerID is the build id that Go's linker made of all that it linked; none
// where the file is of another form, or was linked without.
func linkerID(file io.ReaderAt) []byte {
	program, err := elf.NewFile(file)
	if err != nil {
		return nil
	}
	const header = 16 // of the note: sizes, kind and name
	section := program.Section(".note.go.buildid")
	if section == nil || section.Size <= header {
		return nil
	}
	note, err := section.Data()
	if err != nil {
		return nil
	}
	return note
}
