package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/files"
	"commissaire/cmd/internal/terminal"
	"commissaire/test/fleet"
)

// keyDir is where the key is that the hosts of Hold take, below the working directory.
const keyDir = config.DevDir + "/fleet"

// Hold runs simulated hosts, from 1 to 1000, until ctx ends, and says on out how to reach
// them.
func Hold(ctx context.Context, out io.Writer, hosts, port int) error {
	if hosts < 1 || hosts > 1000 {
		return errors.New("--hosts must be from 1 to 1000")
	}
	private, public, err := makeOrReadKey()
	if err != nil {
		return err
	}
	specs := fleet.Mixed(hosts)
	for i := range specs {
		specs[i].Speed = fleet.Speed{Upgrade: 2 * time.Second, Install: 200 * time.Millisecond, Shutdown: time.Second, Reboot: 3 * time.Second}
	}
	running, err := fleet.Start(fleet.Config{Port: port, Hosts: specs, Authorized: []ssh.PublicKey{public}})
	if err != nil {
		return err
	}
	defer running.Close()
	table := terminal.NewTable(out)
	_, _ = fmt.Fprintln(table, "ADDRESS\tOS\tRUNS\tAN UPGRADE BRINGS")
	for _, spec := range specs {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", spec.Address, spec.OS, spec.Version, spec.Next)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "all on port %d; log in as root with the key %s; Ctrl-C ends them\n", port, private)
	<-ctx.Done()
	return nil
}

// makeOrReadKey makes the key that the simulated hosts take, or reads the one made
// before. It returns the path of the private one.
func makeOrReadKey() (string, ssh.PublicKey, error) {
	path := filepath.Join(keyDir, "id_ed25519")
	if err := os.MkdirAll(keyDir, 0o700); err != nil {
		return "", nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		private, _, err := fleet.NewUserKey()
		if err != nil {
			return "", nil, err
		}
		if err := files.WritePrivate(path, string(private)); err != nil {
			return "", nil, err
		}
		text = private
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return "", nil, fmt.Errorf("read %s: %w", path, err)
	}
	return path, key.PublicKey(), nil
}
