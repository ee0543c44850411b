package api

import (
	"context"
	"encoding/json"
	"net/http"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/projections"
)

func (s *Server) getNetworks(w http.ResponseWriter, r *http.Request) error {
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, snapshot.Networks())
}

func (s *Server) getManagers(w http.ResponseWriter, r *http.Request) error {
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, snapshot.Managers())
}

func (s *Server) getNetwork(w http.ResponseWriter, r *http.Request) error {
	return s.getDefinition(w, r, func(snapshot *projections.Snapshot, name string) (*projections.Answer, bool) {
		return snapshot.Network(domain.NetworkName(name))
	}, domain.ErrNoNetwork, "network")
}

func (s *Server) getManager(w http.ResponseWriter, r *http.Request) error {
	return s.getDefinition(w, r, func(snapshot *projections.Snapshot, name string) (*projections.Answer, bool) {
		return snapshot.Manager(domain.ManagerName(name))
	}, domain.ErrNoManager, "container manager")
}

func (s *Server) getDefinition(
	w http.ResponseWriter, r *http.Request,
	find func(*projections.Snapshot, string) (*projections.Answer, bool), missing *domain.Refusal, what string,
) error {
	name, err := domain.ParseName[string](param(r, "name"))
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	found, ok := find(snapshot, name)
	if !ok {
		return missing.With("there is no %s %q", what, name)
	}
	return s.answer(w, r, http.StatusOK, found)
}

func (s *Server) putNetwork(w http.ResponseWriter, r *http.Request) error {
	return s.putDefinition(w, r, func(ctx context.Context, who commands.Who, name, kind string, options json.RawMessage) (commands.DefinitionReceipt, error) {
		return s.config.Commands.PutNetwork(ctx, who, commands.PutNetwork{Name: domain.NetworkName(name), Type: kind, Options: options})
	})
}

func (s *Server) putManager(w http.ResponseWriter, r *http.Request) error {
	return s.putDefinition(w, r, func(ctx context.Context, who commands.Who, name, kind string, options json.RawMessage) (commands.DefinitionReceipt, error) {
		return s.config.Commands.PutManager(ctx, who, commands.PutManager{Name: domain.ManagerName(name), Type: kind, Options: options})
	})
}

// putDefinition answers what was decided; that is all there is to a definition.
func (s *Server) putDefinition(
	w http.ResponseWriter, r *http.Request,
	define func(ctx context.Context, who commands.Who, name, kind string, options json.RawMessage) (commands.DefinitionReceipt, error),
) error {
	name, err := domain.ParseName[string](param(r, "name"))
	if err != nil {
		return err
	}
	who, b, err := s.change(r)
	if err != nil {
		return err
	}
	if err := b.same("name", name); err != nil {
		return err
	}
	kind, err := b.text("type")
	if err != nil {
		return err
	}
	options, err := b.object("options")
	if err != nil {
		return err
	}
	receipt, err := define(r.Context(), who, name, kind, options)
	if err != nil {
		return err
	}
	s.settle(w, r, receipt.Receipt)
	return s.answer(w, r, http.StatusCreated, projections.Definition{Name: name, Type: receipt.Type, Options: receipt.Options})
}

func (s *Server) deleteNetwork(w http.ResponseWriter, r *http.Request) error {
	name, err := domain.ParseName[domain.NetworkName](param(r, "name"))
	if err != nil {
		return err
	}
	return s.delete(w, r, func(ctx context.Context, who commands.Who) (commands.Receipt, error) {
		return s.config.Commands.DeleteNetwork(ctx, who, name)
	})
}

func (s *Server) deleteManager(w http.ResponseWriter, r *http.Request) error {
	name, err := domain.ParseName[domain.ManagerName](param(r, "name"))
	if err != nil {
		return err
	}
	return s.delete(w, r, func(ctx context.Context, who commands.Who) (commands.Receipt, error) {
		return s.config.Commands.DeleteManager(ctx, who, name)
	})
}
