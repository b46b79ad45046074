"""What runs a network on the board, behind `device.protocols.Runtime`; `device.runtimes.registry.RUNTIMES` names them."""
