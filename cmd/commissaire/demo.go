package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"commissaire/test/fleet"
)

// Where demo keeps the key that its hosts take, below the working directory.
const demoDir = devDir + "/fleet"

func demoCommand() *cobra.Command {
	var hold bool
	var hosts, port int
	cmd := &cobra.Command{
		Use: "demo", Short: "Run simulated hosts to try things on", Args: cobra.NoArgs,
		Long: `Run simulated SSH hosts on loopback addresses until interrupted, and say how to
reach them. They speak the real protocol and run the same host-side script as
real hosts, on file systems and commands of their own.`,
	}
	cmd.Flags().BoolVar(&hold, "hold", false, "keep the hosts up until interrupted")
	cmd.Flags().IntVar(&hosts, "hosts", 5, "how many")
	cmd.Flags().IntVar(&port, "port", 2222, "where they listen")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !hold {
			return errors.New("only demo --hold is there yet: it keeps simulated hosts up to try things on")
		}
		if hosts < 1 || hosts > 1000 {
			return errors.New("--hosts must be from 1 to 1000")
		}
		private, public, err := demoKey()
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		specs := fleet.Mixed(hosts)
		for i := range specs {
			specs[i].Speed = fleet.Speed{Upgrade: 2 * time.Second, Install: 200 * time.Millisecond, Shutdown: time.Second, Reboot: 3 * time.Second}
		}
		running, err := fleet.Start(fleet.Config{Port: port, Hosts: specs, Authorized: []ssh.PublicKey{public}})
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		defer running.Close()
		table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "ADDRESS\tOS\tRUNS\tAN UPGRADE BRINGS")
		for _, h := range specs {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", h.Address, h.OS, h.Version, h.Next)
		}
		if err := table.Flush(); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "all on port %d; log in as root with the key %s; Ctrl-C ends them\n", port, private)
		<-cmd.Context().Done()
		return nil
	}
	return cmd
}

// demoKey makes the key that the simulated hosts take, or reads the one made
// before. It returns the path of the private one.
func demoKey() (string, ssh.PublicKey, error) {
	path := filepath.Join(demoDir, "id_ed25519")
	if err := os.MkdirAll(demoDir, 0o700); err != nil {
		return "", nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		private, _, err := fleet.NewUserKey()
		if err != nil {
			return "", nil, err
		}
		if err := writePrivate(path, string(private)); err != nil {
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
