package commands

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"
)

// PutNetwork asks for a network.
type PutNetwork struct {
	Name    domain.NetworkName
	Type    string          // "": flannel_etcd
	Options json.RawMessage // an object; nil: none
}

// PutManager asks for a container manager.
type PutManager struct {
	Name    domain.ManagerName
	Type    string          // "": openshift
	Options json.RawMessage // an object of strings; a token in it is kept apart; nil: none
}

// DefinitionReceipt says how a network or a container manager is defined after a
// command; a token in its options is masked.
type DefinitionReceipt struct {
	Receipt
	Type    string
	Options json.RawMessage
}

// PutNetwork defines a network. It may be repeated.
func (h *Handler) PutNetwork(ctx context.Context, who Who, cmd PutNetwork) (DefinitionReceipt, error) {
	defined := event.NetworkDefined{Network: cmd.Name, Type: or(cmd.Type, domain.FlannelEtcd), Options: object(cmd.Options)}
	receipt, err := h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.DefineNetwork(defined) })
	return DefinitionReceipt{receipt, defined.Type, defined.Options}, err
}

// DeleteNetwork removes a network that no cluster uses.
func (h *Handler) DeleteNetwork(ctx context.Context, who Who, name domain.NetworkName) (Receipt, error) {
	return h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.RemoveNetwork(name) })
}

// PutManager defines a container manager. It may be repeated.
func (h *Handler) PutManager(ctx context.Context, who Who, cmd PutManager) (DefinitionReceipt, error) {
	fail := func(err error) (DefinitionReceipt, error) { return DefinitionReceipt{}, err }
	var given map[string]*string
	wrong := json.Unmarshal(object(cmd.Options), &given) != nil
	options := make(map[string]string, len(given))
	for key, value := range given {
		if wrong = wrong || value == nil; !wrong { // null would be ""
			options[key] = *value
		}
	}
	if wrong {
		return fail(domain.ErrInvalid.At("options", "every option of a container manager is a string"))
	}
	token, hasToken := options["token"]
	if token == domain.Mask {
		return fail(domain.ErrInvalid.At("options", "token is the mask under which tokens are shown; send the token itself"))
	}
	delete(options, "token")
	for _, key := range domain.ManagerFiles() {
		if path, ok := options[key]; ok && !h.mayHold(path) {
			return fail(domain.ErrInvalid.At("options", "%s must be a path under the configured container-managers.certificate-dir", key))
		}
	}
	rest, err := json.Marshal(options)
	if err != nil {
		return fail(fmt.Errorf("write the options of container manager %s: %w", cmd.Name, err))
	}
	shown := rest
	if hasToken {
		options["token"] = domain.Mask
		if shown, err = json.Marshal(options); err != nil {
			return fail(fmt.Errorf("write the options of container manager %s: %w", cmd.Name, err))
		}
	}
	defined := event.ContainerManagerDefined{
		ManagerID: newID[domain.ManagerID](h), Manager: cmd.Name, Type: or(cmd.Type, domain.OpenShift), Options: rest,
	}
	if hasToken {
		defined.Credential = newID[domain.CredentialID](h)
		defined.TokenDigest = h.config.TokenDigest(Secret(token))
	}
	receipt, err := h.defineManager(ctx, who, defined, Secret(token))
	return DefinitionReceipt{receipt, defined.Type, shown}, err
}

func (h *Handler) defineManager(ctx context.Context, who Who, defined event.ContainerManagerDefined, token Secret) (Receipt, error) {
	f := func(r *roster.Roster) ([]event.RosterEvent, error) { return r.DefineManager(defined) }
	if defined.Credential == "" {
		return h.onRoster(ctx, who, f)
	}
	secret := newSecret{id: defined.Credential, text: token, what: "the token of container manager " + string(defined.Manager)}
	return h.recordSecret(ctx, who, secret, func() error { return nil }, f)
}

// DeleteManager removes a container manager that no cluster uses.
func (h *Handler) DeleteManager(ctx context.Context, who Who, name domain.ManagerName) (Receipt, error) {
	return h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.RemoveManager(name) })
}

func (h *Handler) mayHold(path string) bool {
	dir := h.config.CertificateDir
	if dir == "" || !filepath.IsAbs(path) {
		return false
	}
	relative, err := filepath.Rel(dir, filepath.Clean(path))
	return err == nil && relative != ".." && !strings.HasPrefix(relative, "../")
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func object(options json.RawMessage) json.RawMessage {
	if len(options) == 0 {
		return json.RawMessage("{}")
	}
	return options
}
