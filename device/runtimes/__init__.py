"""What runs a network on the board, behind `device.protocols.Runtime`; `device.registry.RUNTIMES` names them."""
