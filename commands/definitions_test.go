package commands_test

import (
	"encoding/json"
	"errors"
	"testing"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

func TestATokenIsKeptApartAndShownMasked(t *testing.T) {
	for name, c := range map[string]struct {
		options, recorded, shown string
		token, digest            string
	}{
		"with a token": {
			`{"server_url": "https://m", "token": "t"}`, `{"server_url":"https://m"}`, `{"server_url":"https://m","token":"********"}`, "t", "digest of t",
		},
		"with an empty token": {
			`{"server_url": "https://m", "token": ""}`, `{"server_url":"https://m"}`, `{"server_url":"https://m","token":"********"}`, "", "digest of ",
		},
		"without a token": {`{"server_url": "https://m"}`, `{"server_url":"https://m"}`, `{"server_url":"https://m"}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			receipt, err := f.PutManager(t.Context(), ann, commands.PutManager{Name: "m", Options: json.RawMessage(c.options)})
			if err != nil || receipt.Type != domain.OpenShift || string(receipt.Options) != c.shown {
				t.Fatalf("%s of type %s: %v", receipt.Options, receipt.Type, err)
			}
			defined := f.history(event.RosterStream)[0].Event.(event.ContainerManagerDefined)
			if string(defined.Options) != c.recorded || defined.TokenDigest != c.digest || (defined.Credential != "") != (c.digest != "") {
				t.Errorf("recorded is %+v", defined)
			}
			if token, kept := f.secrets.held[defined.Credential]; kept != (c.digest != "") || token != c.token {
				t.Errorf("kept is %q: %v", token, kept)
			}
		})
	}
}

func TestNothingIsStoredOfAContainerManagerThatIsRefused(t *testing.T) {
	for name, options := range map[string]string{
		"no object":                   `[]`,
		"an option that is no string": `{"server_url": 1, "token": "t"}`,
		"an option that is null":      `{"server_url": null, "token": "t"}`,
		"a token that is null":        `{"server_url": "https://m", "token": null}`,
		"the mask as its token":       `{"server_url": "https://m", "token": "********"}`,
		"an unknown option":           `{"server_url": "https://m", "tokn": "t", "token": "t"}`,
		"no server":                   `{"token": "t"}`,
		"a relative path":             `{"server_url": "https://m", "token": "t", "ca_path": "ca.pem"}`,
		"a path elsewhere":            `{"server_url": "https://m", "token": "t", "ca_path": "/etc/shadow"}`,
		"a path above":                `{"server_url": "https://m", "token": "t", "certificate_path": "/etc/certificates/../shadow"}`,
		"a path beside":               `{"server_url": "https://m", "token": "t", "certificate_key_path": "/etc/certificates-old/key"}`,
		"an empty path":               `{"server_url": "https://m", "token": "t", "ca_path": ""}`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			if _, err := f.PutManager(t.Context(), ann, commands.PutManager{Name: "m", Options: json.RawMessage(options)}); !errors.Is(err, domain.ErrInvalid) {
				t.Error(err)
			}
			if f.secrets.stored > 0 || len(f.history(event.RosterStream)) > 0 {
				t.Errorf("%d secrets were stored, and recorded are %s", f.secrets.stored, f.types(event.RosterStream))
			}
		})
	}
}

func TestPathsUnderTheConfiguredOneAreAllowed(t *testing.T) {
	for _, path := range []string{"/etc/certificates/ca.pem", "/etc/certificates/m/ca.pem", "/etc/certificates/../certificates/ca.pem", "/etc/certificates/..ca"} {
		f := newFixture(t)
		options, err := json.Marshal(map[string]string{"server_url": "https://m", "ca_path": path})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.PutManager(t.Context(), ann, commands.PutManager{Name: "m", Options: options}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
