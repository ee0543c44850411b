package service

import (
	"strings"
	"testing"

	"commissaire/adapters/ssh"
	"commissaire/cmd/internal/config"
)

func TestAJumpHostWithoutAUsableKeyIsRefusedAtStart(t *testing.T) {
	t.Setenv("TEST_JUMP_KEY", "MARKER")
	good := config.Jump{Address: "gate", Port: 22, User: "core", Key: "env:TEST_JUMP_KEY", HostKey: "SHA256:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxw"}
	for want, change := range map[string]func(*config.Jump){
		"ssh.jump.key: this is no private key":                           func(*config.Jump) {},
		"ssh.jump.key: the environment has no TEST_NO_KEY":               func(c *config.Jump) { c.Key = "env:TEST_NO_KEY" },
		"ssh.jump.key: name it as file:PATH, env:NAME or exec:COMMAND":   func(c *config.Jump) { c.Key = "MARKER" },
		`ssh.jump.address: "no host" is neither an IP address nor a DNS`: func(c *config.Jump) { c.Address = "no host" },
		`ssh.jump.user: "No User" is no account name`:                    func(c *config.Jump) { c.User = "No User" },
		"ssh.jump.host-key must be a SHA-256 fingerprint":                func(c *config.Jump) { c.HostKey = "SHA256:x" },
	} {
		changed := good
		change(&changed)
		if _, err := readJump(t.Context(), changed, ssh.Modern); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "MARKER") {
			t.Errorf("%v; want %q in it", err, want)
		}
	}
}
