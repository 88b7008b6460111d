"""The town as a map: terrain, road network, surfaces, markings. Nothing here moves or is solid."""
