"""What a pretrained network says of single voxels, as pictures."""
